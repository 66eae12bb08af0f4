# Two images: `docker build --target service .` and `docker build --target export .`
#
#   --build-arg CUDA=1                    adds the CUDA and cuDNN libraries, for hosts with an NVIDIA driver
#   --build-arg PIP_EXTRA_INDEX_URL=URL   one more package index, for example one of torch without CUDA

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS builder
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/multicrop/bin:$PATH
RUN python -m venv /opt/multicrop
WORKDIR /src
# Without the packages: the dependencies below are installed again only when this file changes.
COPY pyproject.toml LICENSE ./
RUN touch README.md

FROM builder AS service-builder
ARG CUDA=
RUN pip install ".[service${CUDA:+,gpu}]"
COPY README.md ./
COPY bundle bundle
COPY pages pages
COPY service service
COPY export export
RUN pip install --no-deps --force-reinstall .

FROM builder AS export-builder
ARG CUDA=
RUN pip install ".[export${CUDA:+,gpu}]"
COPY README.md ./
COPY bundle bundle
COPY pages pages
COPY service service
COPY export export
RUN pip install --no-deps --force-reinstall .

FROM python:${PYTHON}-slim AS runtime
# What the NVIDIA container runtime mounts from the driver; without it this means nothing.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PATH=/opt/multicrop/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN install --directory --owner=10001 --group=10001 /models
VOLUME /models

FROM runtime AS export
COPY --from=export-builder /opt/multicrop /opt/multicrop
# The graph compiler and the progress bars look for a home; the user has none.
ENV HOME=/tmp
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["multicrop-export"]
CMD ["--help"]

# The last stage is what `docker build .` makes. It writes nowhere: `docker run --read-only` is well.
FROM runtime AS service
COPY --from=service-builder /opt/multicrop /opt/multicrop
ENV MULTICROP_HOST=0.0.0.0 \
    MULTICROP_PORT=8000 \
    MULTICROP_REPOSITORY=/models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Of this process and not of a proxy that the environment may name.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['MULTICROP_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["multicrop-service"]
CMD ["run"]
