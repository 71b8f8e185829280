"""Live events for operators: what happens, as server-sent events, kept for readers that come back.

hub       holds the last events, and hands them to readers
stream    writes events in the format of server-sent events
recorder  takes the coordinator's own events of this process: alarms and quarantines
watch     finds at each pass, in the rows that all processes share, what has happened

What is in the database (rounds, versions, tasks, the audit log) is told by every process, whichever has done
it, about a pass later; alarms and quarantines are told by the process that had them. No event is durable: a
reader that has missed some is told so, and reads the state anew.
"""
