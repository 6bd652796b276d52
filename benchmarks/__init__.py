"""Speed, shown beside peers and hand-written code."""
