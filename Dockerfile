# The server in a container, beside the host's engine: see compose.yaml.
# Any image with Python 3.10+ and pip will do as the base.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
# So that what a rebuild leaves untagged can be told from other images, and pruned.
LABEL remote-env.image=server
WORKDIR /src
COPY . .
# A wheelhouse in the build context (scripts/server-context makes one) stands in for the package index.
RUN python3 -m venv --without-pip /opt/remote-env \
    && if [ -d wheelhouse ]; then set -- --no-index --find-links wheelhouse 'remote-env[server]'; else set -- '.[server]'; fi \
    && python3 -m pip --python /opt/remote-env/bin/python --no-cache-dir install "$@"

FROM ${BASE_IMAGE}
LABEL remote-env.image=server
COPY --from=build /opt/remote-env /opt/remote-env
ENV PATH=/opt/remote-env/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    REMOTE_ENV_SERVER_DATA_DIR=/var/lib/remote-env
VOLUME /var/lib/remote-env
EXPOSE 9527
ENTRYPOINT ["remote-env"]
# Inside a container 0.0.0.0 is the container's own network; who can reach it is decided where the port is published.
CMD ["serve", "--host", "0.0.0.0", "--insecure"]
