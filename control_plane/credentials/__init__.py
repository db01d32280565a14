"""Credentials that organisations bring for hosted upstreams: stored sealed, given to gateways alone."""
