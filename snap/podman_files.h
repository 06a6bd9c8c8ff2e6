// SPDX-License-Identifier: Apache-2.0
// The on-disk form of the read-only image store that podman and CRI-O read (snap/podman_images.h
// makes the contents of its files):
//
//   overlay-images/images.json, images.lock   the images
//   overlay-images/<image>/<document>         their manifests and configurations
//   overlay-layers/layers.json, layers.lock   the layers
//   overlay/<layer>/diff                      top layer: symbolic link to the mounted tree;
//                                             others: an empty directory
//   overlay/<layer>/link, overlay/l/<link>    its short name, and a symbolic link of that name
//   overlay/<layer>/empty                     the directory that podman puts below a bottom layer
//
// A link whose tree is not mounted dangles, so that podman fails instead of presenting an empty
// directory. Files are replaced as a whole. The bytes of a lock file identify the last writer: a
// running podman rereads the records when they change.
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
  // Creates the directory. What an earlier process published stays until the first Publish.
  static absl::StatusOr<std::unique_ptr<PodmanFiles>> Open(std::string directory);

  // Replaces the content with these images. `trees` says where the tree of each ChainID is mounted.
  // An image is complete before it is listed, and unlisted before it is removed. After an error,
  // part of this may have been done; the next call completes it.
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
  std::map<std::string, std::string> records_;  // file contents last written, by name
};

}  // namespace imagefs
