"""Personal models of users who want them kept: encrypted, versioned, and gone when they say so.

key_ring   which key encrypts, and which still decrypt
sealing    one head as bytes that say nothing without the key
owners     whose head it is, as a name that says nothing
heads      put, get, delete, rotate
erasing    forget-me, also where no key is
checks     what may be put
maps       from heads of one model version to heads of the next
"""
