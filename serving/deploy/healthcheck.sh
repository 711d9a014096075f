#!/bin/bash
# Exits with 0 if a version of the model is being served on the REST port given. The image has no
# HTTP client, so bash opens the connection.
set -eu
exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$MODEL_NAME" >&3
grep -Eq '"state": ?"AVAILABLE"' <&3
