"""HTTP: routes, request bodies, credentials and problem documents. No decisions about rounds are made here.

application           serves an endpoint group and the probes of one port through aiohttp
endpoint_group        the checks that every call passes, and its dispatch
sdk                   the endpoints that phones call
personal_endpoints    of these, the ones about a user's personal model
operators             the endpoints that operators call
request_handler       aiohttp's connections, made to answer with problem documents
"""
