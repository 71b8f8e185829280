"""This experiment measures what personal models are worth (``keyflock-sim personalise``).

users                       which users are measured, and where a user's text is cut in time
arms                        what is compared: the trunk, each expert alone, blends
user_evaluation             one user: learn, then be evaluated on what comes later
jobs, measurement           users as jobs for workers, and all of them
results, report, picture    means, shares and intervals; tables; pictures
"""
