"""`pronghorn bench`: load on servers, from processes of its own, and what the servers spend on it."""
