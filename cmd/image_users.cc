// SPDX-License-Identifier: Apache-2.0
#include "cmd/image_users.h"

#include <string_view>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMostNamed = 4;

std::string_view KindName(ImageUser::Kind kind) {
  switch (kind) {
    case ImageUser::Kind::kMount:
      return "mount";
    case ImageUser::Kind::kContainerd:
      return "containerd";
    case ImageUser::Kind::kPodman:
      return "podman";
  }
  return "mount";
}

std::string InWords(const ImageUser& user) {
  switch (user.kind) {
    case ImageUser::Kind::kMount:
      return StrCat("the mount ", PrintableName(user.name));
    case ImageUser::Kind::kContainerd:
      if (user.name.empty()) return "containerd";
      return StrCat("containerd (namespace ", PrintableName(user.name), ", ", user.containers,
                    user.containers == 1 ? " container)" : " containers)");
    case ImageUser::Kind::kPodman:
      return StrCat("podman (", PrintableName(user.name), ")");
  }
  return "";
}

}  // namespace

std::vector<ImageUser> FindImageUsers(const MountTable& mounts, const RuntimeUsers& runtimes) {
  std::vector<ImageUser> users;
  for (const MountState& mount : mounts.List()) {
    users.push_back(
        {ImageUser::Kind::kMount, mount.record.manifest_digest, mount.record.directory, 0});
  }
  if (!runtimes) return users;
  for (ImageUser& user : runtimes()) users.push_back(std::move(user));
  return users;
}

std::string UsersInWords(const std::vector<ImageUser>& users, const Digest& manifest) {
  std::vector<std::string> words;
  size_t more = 0;
  for (const ImageUser& user : users) {
    if (user.manifest != manifest) continue;
    if (words.size() == kMostNamed) {
      ++more;
    } else {
      words.push_back(InWords(user));
    }
  }
  if (more > 0) words.push_back(StrCat(more, " more"));
  std::string out;
  for (size_t i = 0; i < words.size(); ++i) {
    StrAppend(&out, i == 0 ? "" : i + 1 == words.size() ? " and " : ", ", words[i]);
  }
  return out;
}

void FillUsers(const std::vector<ImageUser>& users, const Digest& manifest,
               control::v1::Image* image) {
  for (const ImageUser& user : users) {
    if (user.manifest != manifest) continue;
    control::v1::ImageUser* out = image->add_used_by();
    out->set_kind(std::string(KindName(user.kind)));
    out->set_name(user.name);
    out->set_containers(user.containers);
  }
}

}  // namespace imagefs
