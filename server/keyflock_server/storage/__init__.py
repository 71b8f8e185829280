"""What survives a crash, behind one typed door: rows in SQL, blobs in an object store."""
