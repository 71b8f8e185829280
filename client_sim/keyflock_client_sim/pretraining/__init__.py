"""Version 0 is a model trained in one place on public text, before any phone takes part.

Begin with ``driver.pretrain``; ``checkpoint_cache.load_or_pretrain`` is the same behind a cache. The
mathematics of a step is ``keyflock_models.training.pretraining``; this package owns its clock, its files and
its worker processes.
"""
