"""The operator API: its calls and their messages, as JSON with these field names.

call          what the table says of a call
table         all calls
populations, tasks, rounds, devices, events   one module a resource: its messages, then its calls

Unlike the SDK's messages these may grow with every release; instants are RFC 3339 in UTC.
"""
