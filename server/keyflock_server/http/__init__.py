"""HTTP, thin: routes, bodies, credentials and problem documents. No decisions are made here."""
