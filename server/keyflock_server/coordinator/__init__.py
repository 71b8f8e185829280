"""The one hinge between the pure core and the shell: it asks the core, and does what the core describes."""
