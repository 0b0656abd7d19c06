# The one image: `serve` and `sync` are arguments. docs/image.md says what is in it and how to check it.
#
#   docker build -t mainstay .
#   docker run --rm --read-only -p 5000:5000 mainstay serve
#
# The two images that it stands on are pinned by digest; both names are indexes for amd64 and arm64.
ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f

FROM ${BUILD_IMAGE} AS build
# make and perl are for OpenSSL, pip for ONNX Runtime's library. Not pinned: the base image is, and none of them is shipped.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends g++ make perl python3 python3-pip && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# The same sources give the same bytes: no date, and no path of this machine beyond the fixed one here.
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    CARGO_PROFILE_RELEASE_STRIP=symbols
RUN cargo build --release --locked --bin mainstay
RUN mkdir -p /out/opt/mainstay && \
    cp target/release/mainstay target/release/build/mainstay-server-*/out/libonnxruntime.so LICENSE* /out/opt/mainstay/

FROM ${BASE_IMAGE}
# The library lies beside the program, which is where the program looks for it.
COPY --from=build /out/ /
# By number, so that Kubernetes can see that it is not root; any other works as well.
USER 65532:65532
ENV MAINSTAY_LOG_FORMAT=json
EXPOSE 5000 9090 9091
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/opt/mainstay/mainstay", "probe"]
ENTRYPOINT ["/opt/mainstay/mainstay"]
CMD ["serve"]
ARG VERSION=0.0.0-dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Mainstay" \
      org.opencontainers.image.description="Serves trained models and does what git says." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
