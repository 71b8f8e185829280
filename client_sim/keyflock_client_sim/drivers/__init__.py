"""Drivers carry out the effects of devices: over HTTP on the real clock, or in one process in virtual time.

Begin with ``real_time`` or ``virtual_time``: the same phones run under both. ``trainer`` says what trains for
them, ``fleet_stats`` what is known of a fleet as it runs.
"""
