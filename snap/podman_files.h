// The read-only image store that podman and CRI-O read, on disk (snap/podman_images.h has what
// stands in its files):
//
//   overlay-images/images.json, images.lock   the images
//   overlay-images/<image>/<document>         their manifests and configurations
//   overlay-layers/layers.json, layers.lock   the layers
//   overlay/<layer>/diff                      of an image's top layer: symbolic link to where the
//                                             tree is mounted; of those below it an empty directory
//   overlay/<layer>/link, overlay/l/<link>    its short name, and a symbolic link of that name
//   overlay/<layer>/empty                     what podman puts below a lowest layer
//
// A link whose tree is not mounted leads nowhere, so that podman fails where it would otherwise
// show an empty directory. Files are replaced as a whole. The bytes of a lock file say which writer
// was the last: a podman that runs reads the records again when they have changed.
//
// Not thread-safe. Methods block on local disk.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "snap/podman_images.h"

namespace imagefs {

class PodmanFiles {
 public:
  // Makes the directory. What an earlier process has published stays until the first Publish.
  static absl::StatusOr<std::unique_ptr<PodmanFiles>> Open(std::string directory);

  // Makes these images the content. `trees` says where the tree of each image's ChainID is mounted.
  // An image that comes is complete before it is listed, one that goes is not listed before it
  // goes. After an error some of this may have happened; the next call does the rest.
  absl::Status Publish(std::vector<PodmanImage> images, const std::map<Digest, std::string>& trees);

  const std::string& directory() const { return directory_; }

 private:
  explicit PodmanFiles(std::string directory) : directory_(std::move(directory)) {}
  absl::Status PutLayers(const PodmanImage& image, const std::string& tree);
  absl::Status PutDocuments(const PodmanImage& image);
  absl::Status PutRecords(const std::string& name, std::string text);
  absl::Status RemoveStrays();

  const std::string directory_;
  std::vector<PodmanImage> published_;
  std::map<std::string, std::string> records_;  // what was written, by name
};

}  // namespace imagefs
