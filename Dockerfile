# The kit's image; Singularity.def makes the same from the same base by the same steps.
#   docker build -t lp-mlperf-kit .
# The default base has not been built from by us, since no registry of NVIDIA's could be reached; see
# docs/reproducing.md, also for pinning it by digest and for the CPU base that the tests use.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.04-py3
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
ARG BASE_IMAGE
# cuda: the base brings torch; cpu: torch is installed too, enough for the demonstration
ARG DEVICE=cuda
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lp-mlperf-kit" \
      org.opencontainers.image.description="MLPerf Training ResNet-50 and BERT-large on four GPU nodes" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
USER 0:0
# The packages first: a changed source then builds in seconds.
COPY container /opt/lp-mlperf-kit/container
# For a base without apex, which is then built: from another git repository with the pinned commit, for these
# GPUs, so many files at a time (auto: by cores and memory).
ARG APEX_SOURCE=pinned
ARG APEX_ARCHITECTURES="8.0 9.0 10.0"
ARG MAX_JOBS=auto
RUN BASE_IMAGE="${BASE_IMAGE}" DEVICE="${DEVICE}" APEX_SOURCE="${APEX_SOURCE}" \
    APEX_ARCHITECTURES="${APEX_ARCHITECTURES}" MAX_JOBS="${MAX_JOBS}" \
    bash /opt/lp-mlperf-kit/container/install.sh packages
COPY . /opt/lp-mlperf-kit
RUN BASE_IMAGE="${BASE_IMAGE}" DEVICE="${DEVICE}" bash /opt/lp-mlperf-kit/container/install.sh finish
# The base's torch may be linked to the base's MPI, and is imported before mpi4py: both then take the kit's.
# NVIDIA's container runtime gives "video", the GPU's JPEG decoder, only to images that ask for it.
ENV PATH=/opt/lp-mlperf-environment/bin:${PATH} \
    LD_LIBRARY_PATH=/opt/lp-mlperf-environment/lib${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}} \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
WORKDIR /opt/lp-mlperf-kit
USER 1000:1000
# Not the base's entry point: nothing may stand between the launcher and the trainer.
ENTRYPOINT []
CMD ["bash", "/opt/lp-mlperf-kit/container/selftest.sh"]
