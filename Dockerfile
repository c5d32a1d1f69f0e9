# The coordinator alone: CouchDB and RabbitMQ are containers of their own (docker-compose.yml).
FROM node:22-bookworm-slim
WORKDIR /muster
COPY package.json package-lock.json .npmrc ./
COPY clients/typescript/package.json clients/typescript/
RUN npm ci --omit=dev
COPY config-db config-db
COPY coordinator coordinator
COPY clients clients
RUN mkdir -p /data && chown node:node /data
USER node
ENV MUSTER_HTTP_HOST=0.0.0.0 MUSTER_DATA_DIR=/data NODE_ENV=production
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:8080/readyz').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# Node is process 1 and drains on SIGTERM.
CMD ["node", "--import", "tsx", "coordinator/main.ts"]
