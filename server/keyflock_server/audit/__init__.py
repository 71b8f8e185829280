"""The audit log's pure part: what an entry holds, how entries are chained, and how a chain is verified.

It promises that the first entry that was changed, removed or moved is named. It cannot promise more than the
database's owner allows: who may write to the database can rewrite the whole chain, unless a digest of its
head is kept elsewhere. It reads no clock and no store.

Source: Haber and Stornetta 1991, "How to time-stamp a digital document": each entry's digest covers the
digest of the entry before.
"""
