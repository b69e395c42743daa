# An image of the engine. Build it with any builder, run it with --privileged:
#   docker run -d --privileged -v /run/inner:/run/inner longshore -H unix:///run/inner/docker.sock
FROM debian:bookworm-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates libnftables1 libseccomp2 procps python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

COPY . /usr/src/longshore/

RUN python3 -m venv /opt/longshore \
 && /opt/longshore/bin/pip install --no-cache-dir --disable-pip-version-check /usr/src/longshore \
 && rm -rf /usr/src/longshore

ENV PATH=/opt/longshore/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Not on the container's own overlay: overlayfs cannot be its own upper layer.
VOLUME /var/lib/longshore

ENTRYPOINT ["longshored"]
