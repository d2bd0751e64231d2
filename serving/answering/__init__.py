"""From tokens to answers, whole or streamed, in the shapes that clients know."""
