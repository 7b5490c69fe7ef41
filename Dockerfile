# Image of the shoal server for CPUs; the model stays outside:
#   docker build -t shoal .
#   docker run --rm --read-only --cap-drop=ALL -p 127.0.0.1:8000:8000 \
#     -v /path/to/model.gguf:/models/model.gguf:ro shoal
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/install_packages.sh deploy/
RUN deploy/install_packages.sh build
COPY . .
# Two jobs by default: the largest files take 2 GiB each to compile.
ARG JOBS=2
RUN cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DSHOAL_BUILD_TESTS=OFF \
 && ninja -C build -j "${JOBS}" shoal \
 && strip build/shoal

FROM ${BASE}
COPY deploy/install_packages.sh /tmp/
RUN /tmp/install_packages.sh run \
 && rm -rf /tmp/install_packages.sh /var/lib/apt/lists/* /var/cache/apt \
      /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 10001 shoal \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin shoal
COPY --from=build /src/build/shoal /usr/local/bin/shoal
# Fails the build, not the first start, when a shared library is missing.
RUN ["shoal", "--version"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="shoal" \
      org.opencontainers.image.description="Inference server for the DeepSeek model family and its dense relatives" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"

# A number, so that Kubernetes can see it is not root.
USER 10001:10001
EXPOSE 50051 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["shoal", "health", "--address", "127.0.0.1:50051", "--timeout", "2"]
ENTRYPOINT ["shoal"]
CMD ["serve", "/models/model.gguf", \
     "--grpc-address", "0.0.0.0:50051", "--http-address", "0.0.0.0:8000"]
