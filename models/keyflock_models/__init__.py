"""The next-word model: its vocabulary, its training and its measures, without files, sockets or a clock.

Import every module by its own name, so that a process that only moves vectors never loads JAX.

    text         messages become token ids: tokenizer, vocabulary, sequences; without JAX
    network      the CIFG-LSTM: cifg, recurrence, anchor_loss; config, layout, anchor, checkpoint without JAX
    training     the computation of a phone in a round, and the pre-training of version 0
    evaluation   measures per user, their statistics, keystrokes, baselines; all but neural_scorer without JAX
    personal     what one user's keyboard learns by itself; all but head_fitting without JAX
    serving      suggestions for many users at once; all but batched_trunk without JAX

Nothing global is set at import. A process that trains sets XLA's flags before it imports JAX: see README.md.
"""
