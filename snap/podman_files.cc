// SPDX-License-Identifier: Apache-2.0
#include "snap/podman_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include <set>
#include <utility>

#include "base/directory.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "fs/mount_syscalls.h"

namespace imagefs {
namespace {

constexpr size_t kWriterBytes = 64;  // size of a lock file, which readers compare as a whole
constexpr char kImages[] = "overlay-images/images";
constexpr char kLayers[] = "overlay-layers/layers";

std::string LinkTarget(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  return length < 0 ? "" : std::string(target, static_cast<size_t>(length));
}

// Atomically replaces the link.
absl::Status PutLink(const std::string& path, const std::string& target) {
  if (LinkTarget(path) == target) return absl::OkStatus();
  const std::string fresh = StrCat(path, ".", RandomHex(8));
  if (symlink(target.c_str(), fresh.c_str()) != 0) return ErrnoStatus(errno, fresh);
  if (rename(fresh.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const int error = errno;
  unlink(fresh.c_str());
  return ErrnoStatus(error, path);
}

absl::Status PutFile(const std::string& path, const std::string& bytes) {
  const absl::StatusOr<std::string> there = ReadFile(path, bytes.size());
  if (there.ok() && *there == bytes) return absl::OkStatus();
  return WriteFileDurably(path, bytes);
}

absl::Status RemoveAllBut(const std::string& directory, const std::set<std::string>& keep) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(directory));
  absl::Status status;
  for (const std::string& name : names) {
    if (keep.contains(name)) continue;
    const std::string path = StrCat(directory, "/", name);
    // `podman image mount` mounts inside the store.
    const std::string merged = path + "/merged";
    if (access(merged.c_str(), F_OK) == 0) UnmountPath(merged, /*lazy=*/true).IgnoreError();
    status.Update(RemoveTree(path));
  }
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PodmanFiles>> PodmanFiles::Open(std::string directory) {
  for (const char* name : {"", "/overlay", "/overlay/l", "/overlay-images", "/overlay-layers"}) {
    IMAGEFS_RETURN_IF_ERROR(MakeOwnDir(directory + name).status());
  }
  return std::unique_ptr<PodmanFiles>(new PodmanFiles(std::move(directory)));
}

absl::Status PodmanFiles::PutLayers(const PodmanImage& image, const std::string& tree) {
  const std::vector<PodmanLayer> layers = PodmanLayers(image.first());
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string directory = StrCat(directory_, "/overlay/", layers[i].id);
    IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory + "/empty", 0700));
    // There is no file `lower`: a container gets the tree alone.
    IMAGEFS_RETURN_IF_ERROR(i + 1 == layers.size() ? PutLink(directory + "/diff", tree)
                                                   : MakeDirs(directory + "/diff"));
    IMAGEFS_RETURN_IF_ERROR(PutLink(StrCat(directory_, "/overlay/l/", layers[i].link),
                                    StrCat("../", layers[i].id, "/diff")));
    IMAGEFS_RETURN_IF_ERROR(PutFile(directory + "/link", layers[i].link));
  }
  return absl::OkStatus();
}

absl::Status PodmanFiles::PutDocuments(const PodmanImage& image) {
  const std::string directory =
      StrCat(directory_, "/overlay-images/", PodmanImageId(image.first()));
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  for (const auto& [key, bytes] : PodmanDocuments(image)) {
    IMAGEFS_RETURN_IF_ERROR(PutFile(StrCat(directory, "/", PodmanFileName(key)), bytes));
  }
  return absl::OkStatus();
}

absl::Status PodmanFiles::PutRecords(const std::string& name, std::string text) {
  if (const auto found = records_.find(name); found != records_.end() && found->second == text) {
    return absl::OkStatus();
  }
  records_.erase(name);
  const std::string path = StrCat(directory_, "/", name);
  // What the previous daemon left mostly still holds.
  IMAGEFS_RETURN_IF_ERROR(PutFile(path + ".json", text));
  // Written after the records, so that a reader that sees the new bytes finds the new records.
  IMAGEFS_ASSIGN_OR_RETURN(const Fd lock, OpenFile(path + ".lock", O_WRONLY | O_CREAT, 0600));
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(lock.get(), RandomHex(kWriterBytes / 2), 0));
  records_[name] = std::move(text);
  return absl::OkStatus();
}

absl::Status PodmanFiles::Publish(std::vector<PodmanImage> images,
                                  const std::map<Digest, std::string>& trees) {
  for (const PodmanImage& image : images) {
    const auto tree = trees.find(image.first().chain_id());
    if (tree == trees.end()) return absl::InternalError("an image without a tree");
    IMAGEFS_RETURN_IF_ERROR(PutLayers(image, tree->second));
    IMAGEFS_RETURN_IF_ERROR(PutDocuments(image));
  }
  std::vector<PodmanImage> both = images;
  both.insert(both.end(), published_.begin(), published_.end());
  IMAGEFS_RETURN_IF_ERROR(PutRecords(kLayers, PodmanLayersJson(both)));
  IMAGEFS_RETURN_IF_ERROR(PutRecords(kImages, PodmanImagesJson(images)));
  IMAGEFS_RETURN_IF_ERROR(PutRecords(kLayers, PodmanLayersJson(images)));
  published_ = std::move(images);
  return RemoveStrays();
}

absl::Status PodmanFiles::RemoveStrays() {
  std::set<std::string> layers = {"l"}, links, images = {"images.json", "images.lock"};
  absl::Status status;
  for (const PodmanImage& image : published_) {
    for (const PodmanLayer& layer : PodmanLayers(image.first())) {
      layers.insert(layer.id);
      links.insert(layer.link);
    }
    const std::string id = PodmanImageId(image.first());
    images.insert(id);
    std::set<std::string> documents;
    for (const auto& [key, bytes] : PodmanDocuments(image)) documents.insert(PodmanFileName(key));
    status.Update(RemoveAllBut(StrCat(directory_, "/overlay-images/", id), documents));
  }
  status.Update(RemoveAllBut(directory_ + "/overlay-images", images));
  status.Update(RemoveAllBut(directory_ + "/overlay-layers", {"layers.json", "layers.lock"}));
  status.Update(RemoveAllBut(directory_ + "/overlay", layers));
  status.Update(RemoveAllBut(directory_ + "/overlay/l", links));
  return status;
}

}  // namespace imagefs
