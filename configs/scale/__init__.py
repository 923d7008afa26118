"""What `kvfrontier reproduce --scale` runs on."""
