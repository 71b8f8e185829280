"""Worker processes do the phones' arithmetic: one single-threaded process a core, one job at a time.

Begin with ``pool.WorkerPool``; ``train_job.TrainJob`` is what a simulated phone hands to it. A worker knows
no job by name: a job is a picklable value with a ``run`` method. Why processes and not threads or
``vmap``: docs/decisions/0007.
"""
