"""Text by user: where a simulated phone's messages come from, and which phones may see which text.

Begin with ``sources.read_corpus``: a name or a file becomes users with messages. ``splits`` then says which
users are the public part that version 0 is trained on, which are phones, and which are held out. Text is
never printed, logged or written anywhere by this package; errors name a file and a line, never what is there.
"""
