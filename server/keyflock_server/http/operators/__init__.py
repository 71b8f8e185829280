"""The endpoints that operators call, by the table ``protocol.operator.table``.

endpoints        checks token, role, query and body of every call, and hands typed values to its handler
authentication   whose token it is
handlers         which function answers which call
request          what a handler gets
decoding         query strings and JSON bodies become structs, with every mistake named
populations, tasks, rounds, devices   one file of handlers a resource
"""
