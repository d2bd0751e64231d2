"""What stands between the sockets and the routes: how much, how slowly and in which form clients may send."""
