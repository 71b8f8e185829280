"""Durable storage behind typed interfaces: rows in SQL, blobs in an object store."""
