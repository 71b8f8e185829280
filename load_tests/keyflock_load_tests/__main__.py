"""``python -m keyflock_load_tests``."""

from keyflock_load_tests.cli import main

if __name__ == "__main__":
    main()
