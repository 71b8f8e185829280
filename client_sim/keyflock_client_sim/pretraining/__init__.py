"""Where version 0 comes from: a model trained in one place on public text, before any phone is asked.

Begin with ``driver.pretrain``; ``kept.pretrained`` is the same behind a cache. The mathematics of a step is
``keyflock_models.pretraining``; this package owns its clock, its files and its worker processes.
"""
