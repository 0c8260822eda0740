# The image does nothing that CI does not do: both RUN lines are scripts that .ci/run calls as well.
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN scripts/build-wheel /out
# With the client of Kubernetes: most images run there.
RUN scripts/install-wheel /out /opt/gatehouse kubernetes
# An empty folder for the owner of the state directory to be.
WORKDIR /state

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="gatehouse" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gatehouse /opt/gatehouse
# State belongs in a volume; nothing else in the image is written to, so the root file system may be read-only.
COPY --from=build --chown=65532:65532 /state /var/lib/gatehouse
WORKDIR /var/lib/gatehouse
USER 65532:65532
ENV PATH=/opt/gatehouse/bin:$PATH PYTHONUNBUFFERED=1 GATEHOUSE_STATE_DIR=/var/lib/gatehouse
VOLUME /var/lib/gatehouse
EXPOSE 15012 8080 8081 9191 9192 9193 15014
ENTRYPOINT ["gatehouse"]
CMD ["serve"]
