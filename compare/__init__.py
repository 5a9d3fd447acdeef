"""Methods x seeds on the tiny world, their table and figures."""
