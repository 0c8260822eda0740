"""`gatehouse cert get`: keeps a certificate, its key and the trust bundle fresh in files, for servers of any kind."""
