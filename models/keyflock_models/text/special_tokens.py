"""The four special tokens that every vocabulary begins with; none of them is ever suggested to a user."""

PAD, BOS, EOS, OOV = 0, 1, 2, 3

#: The words at ids 0 to 3. The tokenizer never produces them, so no text can address a special id.
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<oov>")
