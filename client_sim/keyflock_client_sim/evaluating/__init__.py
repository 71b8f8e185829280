"""What a phone does for an `evaluate` task: it scores two versions on text that it never trained on."""
