"""How cone programs are solved."""
