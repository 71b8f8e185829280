"""Stored personal models: encrypted, versioned, and deleted on request.

A personal model is what the SDK protocol calls a head (``/v1/heads``); in code, a head is the adapter in it.

service                 put, get, delete, and key rotation
key_ring                the key that encrypts, and the retired keys that still decrypt
encryption              authenticated encryption of one model
owners                  the keyed digest of a model's owner
eraser                  deletion for forget-me, also on a server without keys
validation              which models a population accepts
population_model_info   vocabulary and dimensions of a population's model
head_maps               maps from heads of one model version to heads of the next
quota                   the limit on all stored models together
decode_thread_pool      the threads in which models are decoded
"""
