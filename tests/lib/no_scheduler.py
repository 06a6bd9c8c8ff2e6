#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Lets Dragonfly's client run alone: no_scheduler.py DIR is a scheduler that is healthy, takes announcements of hosts
and knows no peers, so that what the client lacks comes from the registry. Its port of 127.0.0.1 is in DIR/port."""
import concurrent.futures
import os
import sys

import grpc

SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
ANSWERS = {"/grpc.health.v1.Health/Check": SERVING, "/scheduler.v2.Scheduler/AnnounceHost": b"",
           "/scheduler.v2.Scheduler/DeleteHost": b""}


class Scheduler(grpc.GenericRpcHandler):
    def service(self, details):
        answer = ANSWERS.get(details.method)
        return None if answer is None else grpc.unary_unary_rpc_method_handler(lambda request, context: answer)


server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[Scheduler()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with open(sys.argv[1] + "/port.new", "w") as f:
    f.write(str(port))
os.rename(sys.argv[1] + "/port.new", sys.argv[1] + "/port")
server.wait_for_termination()
