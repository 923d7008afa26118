"""Methods that keep fewer heads, latents, or one layer's keys and values for several layers."""
