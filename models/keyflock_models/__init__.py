"""The next-word model: its vocabulary, its training and its measures. Pure: no files, no sockets, no clock.

Every module is imported by its own name, so that a process which only moves vectors about never loads JAX.

Without JAX:
    special_tokens, tokenizer, vocabulary, public_vocabulary, sequences   text becomes token ids
    config, layout, checkpoint   a model's shape, its flat vector, its bytes
    scoring, evaluation, bootstrap, keystrokes   what a user would notice, and how sure we are of it
    unigram, trigram   the baselines
With JAX:
    network, recurrence   the CIFG-LSTM
    candidates, local_training   what a phone does in a round
    pretraining   where version 0 comes from
    neural_scorer   the network, as something that is measured

Nothing global is set at import. A process that trains sets XLA's flags before it imports JAX: see README.md.
"""
