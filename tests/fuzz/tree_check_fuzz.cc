// SPDX-License-Identifier: Apache-2.0
// The comparison that a layer is promoted by: two trees are made of the same instructions, and one
// of them is bent in one place. A description that says the same has to pass, and one that says
// something else has to fail, unless it is one of the few things that may differ.
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "image/tree_check.h"

namespace imagefs {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kMaxFiles = 64;

// Bytes in order; zeros at the end.
class Dice {
 public:
  Dice(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t Next() { return at_ < size_ ? data_[at_++] : 0; }
  bool left() const { return at_ < size_; }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

// A tree with its data file, as the instructions say.
struct Layer {
  Tree tree;
  Fd data{memfd_create("layer", MFD_CLOEXEC)};
  std::vector<InodeId> inodes = {Tree::kRoot}, directories = {Tree::kRoot};
  uint64_t used = 0;
  uint32_t names = 0;  // a directory has each name once

  void Add(Dice& dice) {
    const InodeId parent = directories[dice.Next() % directories.size()];
    const std::string name = StrCat("n", names++);
    const uint8_t kind = dice.Next() % 6;
    if (kind == 5 && inodes.size() > 1) {
      const InodeId target = inodes[dice.Next() % inodes.size()];
      if (!S_ISDIR(tree.inode(target).mode)) tree.Link(parent, tree.Intern(name), target);
      return;
    }
    constexpr uint32_t kTypes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFREG, S_IFREG};
    Inode inode;
    inode.mode = kTypes[kind] | (dice.Next() & 0777U);
    inode.uid = dice.Next();
    inode.mtime_seconds = dice.Next();
    inode.mtime_nanoseconds = dice.Next();
    if (S_ISLNK(inode.mode)) inode.symlink = tree.Intern(StrCat("to", dice.Next()));
    if (S_ISREG(inode.mode)) inode.size = 1 + dice.Next();
    const InodeId id = tree.NewInode(inode);
    tree.Link(parent, tree.Intern(name), id);
    inodes.push_back(id);
    if (S_ISDIR(inode.mode)) directories.push_back(id);
    if (S_ISREG(inode.mode)) {
      const std::string bytes(inode.size, static_cast<char>(dice.Next()));
      if (!PwriteFull(data.get(), bytes, used).ok()) abort();
      tree.SetExtents(id, {{0, used, inode.size, 1}});
      used += kBlock;
    }
    if (dice.Next() % 4 == 0) tree.SetXattrs(id, {{"user.one", "1"}, {"user.two", "2"}});
  }
};

Layer Make(const uint8_t* data, size_t size) {
  Layer layer;
  Dice dice(data, size);
  while (dice.left() && layer.inodes.size() < kMaxFiles) layer.Add(dice);
  return layer;
}

// Bends the tree in one place. False: what it did may differ, or it did nothing.
bool Bend(Layer& layer, uint8_t how, uint8_t where) {
  if (layer.inodes.size() < 2) return false;
  const InodeId id = layer.inodes[1 + where % (layer.inodes.size() - 1)];
  Inode& inode = layer.tree.inode(id);
  switch (how % 10) {
    case 0:
      inode.mode ^= 04000;
      return true;
    case 1:
      inode.gid ^= 1;
      return true;
    case 2:
      inode.mtime_seconds += 1;
      return true;
    case 3:
      inode.mtime_nanoseconds = 0;
      return false;
    case 4:
      layer.tree.SetXattrs(id, {});
      return false;
    case 5:
      layer.tree.SetXattrs(id, {{"user.one", "another"}});
      return true;
    case 6:
      layer.tree.Link(Tree::kRoot, layer.tree.Intern("stargz.index.json"),
                      layer.tree.NewInode(Inode{}));
      return true;
    case 7:
      layer.tree.Link(Tree::kRoot, layer.tree.Intern("more"), layer.tree.NewInode(Inode{}));
      return true;
    case 8:
      if (!S_ISREG(inode.mode)) return false;
      layer.tree.SetExtents(id, {});  // zeros instead of the bytes
      return true;
    default:
      if (!S_ISREG(inode.mode)) return false;
      inode.size += 1;
      return true;
  }
}

void Check(const uint8_t* data, size_t size) {
  if (size < 2) return;
  const uint8_t how = data[0], where = data[1];
  const Layer own = Make(data + 2, size - 2);
  Layer described = Make(data + 2, size - 2);
  if (!CheckDescription({described.tree, described.data.get()}, {own.tree, own.data.get()}).ok()) {
    abort();
  }
  const bool lies = Bend(described, how, where);
  const absl::Status status =
      CheckDescription({described.tree, described.data.get()}, {own.tree, own.data.get()});
  if (!lies) {
    if (!status.ok()) abort();
    return;
  }
  // A file of zeros is the same without its extent.
  const bool zeros = how % 10 == 8;
  if (status.ok() && !zeros) abort();
  if (!status.ok() && !absl::IsDataLoss(status)) abort();
}

}  // namespace
}  // namespace imagefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  imagefs::Check(data, size);
  return 0;
}
