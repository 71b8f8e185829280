"""A corpus is text by user: this package reads it, and decides which phones may see which text.

Begin with ``sources.read_corpus``: it turns a name or a file into users with messages. ``splits`` says which
users are the public part that version 0 is trained on, which are phones, and which are held out. Text is
never printed, logged or written anywhere by this package; errors name a file and a line, never what is there.
"""
