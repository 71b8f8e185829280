"""Interfaces of the record store and the blob store. Other packages know these protocols and no more.

Every method is one transaction: all of it happened when it returns, none of it when it raises.
"""
