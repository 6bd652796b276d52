"""`J t = b` from products and matrices: knows of no problem and no solver."""
