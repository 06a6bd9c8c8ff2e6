// SPDX-License-Identifier: Apache-2.0
// Archives of images from hostile bytes, opened as an OCI archive and as a docker archive.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "fetch/local_source.h"

namespace {

void OpenLayers(imagefs::ImageSource& source, size_t archive_bytes) {
  source.GetManifest("", imagefs::CancelToken(), [&](auto fetched) {
    if (!fetched.ok()) return;
    if (fetched->digest != imagefs::Sha256Of(fetched->bytes)) abort();
    auto parsed = imagefs::ParseManifest(fetched->bytes, fetched->content_type);
    if (!parsed.ok() || !parsed->manifest) return;
    for (const imagefs::Descriptor& layer : parsed->manifest->layers) {
      auto local = source.OpenLocal(layer);
      if (!local.ok() || !local->has_value()) continue;
      if ((*local)->offset + (*local)->length > archive_bytes) abort();
    }
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("archive", MFD_CLOEXEC);
  if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size)) abort();
  imagefs::Reference reference;
  reference.path = absl::StrCat("/proc/self/fd/", fd);
  for (auto transport : {imagefs::Reference::Transport::kOciArchive,
                         imagefs::Reference::Transport::kDockerArchive}) {
    reference.transport = transport;
    auto source = imagefs::OpenLocalSource(reference);
    if (source.ok()) OpenLayers(**source, size);
  }
  close(fd);
  return 0;
}
