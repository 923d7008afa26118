"""Published figures about how servers allocate the cache, for `kvfrontier allocate --figure NAME`."""
