"""vCPUs: the run loop, requests and kicks, what guest programs and host threads can do."""
