// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fs/test_chain.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <utility>

#include "base/fd.h"
#include "base/text.h"
#include "gtest/gtest.h"
#include "image/erofs_writer.h"

namespace imagefs {
namespace {

std::pair<std::string_view, std::string_view> SplitPath(std::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return {"", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

TestChain::TestChain(int layers) : data_(static_cast<size_t>(layers)) {
  tree_.inode(Tree::kRoot).implied = false;
}

InodeId TestChain::Find(std::string_view path) const {
  InodeId at = Tree::kRoot;
  if (path.empty()) return at;
  for (std::string_view name : Split(path, '/')) {
    const DirentId found = tree_.Find(at, name);
    if (found == kNoId) {
      ADD_FAILURE() << "the tree has no " << path;
      return Tree::kRoot;
    }
    at = tree_.dirent(found).inode;
  }
  return at;
}

Inode& TestChain::inode(std::string_view path) { return tree_.inode(Find(path)); }

InodeId TestChain::Add(std::string_view path, const Inode& attributes) {
  const auto [parent, name] = SplitPath(path);
  const InodeId inode = tree_.NewInode(attributes);
  tree_.Link(Find(parent), name, inode);
  return inode;
}

Extent TestChain::Append(uint64_t file_offset, std::string_view content, uint16_t layer) {
  std::string& data = data_[layer - 1];
  Extent extent;
  extent.file_offset = file_offset;
  extent.data_offset = data.size();
  extent.length = content.size();
  extent.device = layer;
  data.append(content);
  data.resize((data.size() + 511) / 512 * 512);
  return extent;
}

void TestChain::Dir(std::string_view path, uint32_t permissions) {
  Inode inode;
  inode.mode = S_IFDIR | permissions;
  Add(path, inode);
}

void TestChain::File(std::string_view path, std::string_view content, uint32_t permissions,
                     uint16_t layer) {
  Inode inode;
  inode.mode = S_IFREG | permissions;
  inode.size = content.size();
  const InodeId id = Add(path, inode);
  if (!content.empty()) tree_.SetExtents(id, {Append(0, content, layer)});
}

void TestChain::Sparse(std::string_view path, uint64_t size, const std::vector<Part>& parts) {
  Inode inode;
  inode.mode = S_IFREG | 0644;
  inode.size = size;
  const InodeId id = Add(path, inode);
  std::vector<Extent> extents;
  for (const Part& part : parts) extents.push_back(Append(part.offset, part.content, part.layer));
  tree_.SetExtents(id, std::move(extents));
}

void TestChain::Symlink(std::string_view path, std::string_view target) {
  Inode inode;
  inode.mode = S_IFLNK | 0777;
  inode.symlink = tree_.Intern(target);
  inode.size = target.size();
  Add(path, inode);
}

void TestChain::Node(std::string_view path, uint32_t mode, uint32_t major, uint32_t minor) {
  Inode inode;
  inode.mode = mode;
  inode.rdev_major = major;
  inode.rdev_minor = minor;
  Add(path, inode);
}

void TestChain::HardLink(std::string_view path, std::string_view existing) {
  const auto [parent, name] = SplitPath(path);
  tree_.Link(Find(parent), name, Find(existing));
}

void TestChain::Xattrs(std::string_view path, std::vector<Xattr> xattrs) {
  tree_.SetXattrs(Find(path), std::move(xattrs));
}

ChainRef TestChain::Build(const std::string& directory, bool overlay_form) const {
  EXPECT_TRUE(MakeDirs(directory).ok());
  auto chain = std::make_shared<Chain>();
  ErofsWriterOptions options;
  options.overlay_form = overlay_form;
  std::vector<std::shared_ptr<Layer>> layers;
  for (size_t i = 0; i < data_.size(); ++i) {
    auto layer = layers.emplace_back(std::make_shared<Layer>());
    layer->id = layer->diff_id = Sha256Of(data_[i]);
    layer->data_bytes = data_[i].size();
    layer->directory = StrCat(directory, "/layers/", i + 1);
    EXPECT_TRUE(MakeDirs(layer->directory).ok());
    const std::string path = layer->directory + "/data";
    EXPECT_TRUE(WriteFileDurably(path, data_[i]).ok());
    auto file = OpenFile(path, O_RDONLY);
    EXPECT_TRUE(file.ok()) << file.status();
    if (file.ok()) layer->data = *std::move(file);
    options.devices.push_back({layer->diff_id.hex(), layer->data_bytes});
    chain->layers.push_back(std::move(layer));
  }
  chain->index_path = directory + "/index";
  auto file = OpenFile(chain->index_path, O_RDWR | O_CREAT | O_TRUNC);
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return nullptr;
  const absl::Status written = WriteErofs(tree_, options, file->get());
  EXPECT_TRUE(written.ok()) << written;
  auto bytes = ReadFile(chain->index_path, uint64_t{1} << 30);
  if (bytes.ok()) chain->chain_id = Sha256Of(*bytes);
  // The path that the store would use.
  const std::string path = StrCat(directory, "/chains/", chain->chain_id.hex());
  EXPECT_TRUE(MakeDirs(directory + "/chains").ok());
  EXPECT_EQ(rename(chain->index_path.c_str(), path.c_str()), 0);
  chain->index_path = path;
  auto index = ErofsImage::Open(path);
  EXPECT_TRUE(index.ok()) << index.status();
  if (!index.ok()) return nullptr;
  chain->index = *std::move(index);
  // Stands in for the index of each layer.
  for (const std::shared_ptr<Layer>& layer : layers) {
    auto own = ErofsImage::Open(path);
    EXPECT_TRUE(own.ok()) << own.status();
    if (own.ok()) layer->index = *std::move(own);
  }
  return chain;
}

std::string PatternBytes(size_t size, uint64_t seed) {
  std::string out(size, '\0');
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (char& c : out) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    c = static_cast<char>(state >> 32);
  }
  return out;
}

}  // namespace imagefs
