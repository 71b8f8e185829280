"""Next words for keyboards that ask the server: many users' queries in one pass over the network.

service           answers one query
dynamic_batcher   collects the queries that arrive during a pass into the next batch
profile_cache     the profiles of the most recent users, in memory
released_trunks   the trunks of the released versions, compiled before they are used
blocked           words that are never suggested
"""
