// SPDX-License-Identifier: Apache-2.0
// The kernel is the reference for the format: it mounts an index with its data files, and must show
// what the tree contains. Needs root and a kernel that mounts EROFS from files (6.12).

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "gtest/gtest.h"
#include "image/erofs_writer.h"
#include "tests/fakes/image/tree_samples.h"

namespace imagefs {
namespace {

class ErofsKernelTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "SKIPPED: mounting EROFS needs root";
    const Fd context(fsopen("erofs", FSOPEN_CLOEXEC));
    if (!context.valid()) {
      GTEST_SKIP() << "SKIPPED: this kernel has no EROFS: " << strerror(errno);
    }
    const char* base = getenv("TMPDIR");
    std::string name = StrCat(base != nullptr ? base : "/tmp", "/erofs-kernel-XXXXXX");
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
    ASSERT_EQ(mkdir(Path("mnt").c_str(), 0700), 0);
  }

  void TearDown() override {
    if (dir_.empty()) return;
    umount2(Path("mnt").c_str(), MNT_DETACH);
    EXPECT_TRUE(RemoveTree(dir_).ok());
  }

  std::string Path(std::string_view name) const { return StrCat(dir_, "/", name); }

  std::string Write(const std::string& name, std::string_view bytes) {
    auto fd = OpenFile(Path(name), O_CREAT | O_WRONLY | O_TRUNC);
    EXPECT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, 0).ok()) << name;
    return Path(name);
  }

  // Returns "" on success.
  std::string Mount(const std::string& index, const std::vector<std::string>& devices) {
    const Fd context(fsopen("erofs", FSOPEN_CLOEXEC));
    const auto log = [&](const char* what) {
      const int error = errno;
      std::string text = StrCat(what, ": ", strerror(error));
      char line[1024];
      ssize_t size;
      while ((size = read(context.get(), line, sizeof(line))) > 0) {
        StrAppend(&text, "; ", std::string_view(line, static_cast<size_t>(size)));
      }
      errno = error;
      return text;
    };
    if (fsconfig(context.get(), FSCONFIG_SET_STRING, "source", index.c_str(), 0) != 0) {
      return log("source");
    }
    for (const std::string& device : devices) {
      if (fsconfig(context.get(), FSCONFIG_SET_STRING, "device", device.c_str(), 0) != 0) {
        return log("device");
      }
    }
    if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
      return log("create");
    }
    const Fd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY));
    if (!mount.valid()) return log("fsmount");
    if (move_mount(mount.get(), "", AT_FDCWD, Path("mnt").c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      return log("move_mount");
    }
    return "";
  }

  void MountOrSkip(const std::string& index, const std::vector<std::string>& devices) {
    const std::string error = Mount(index, devices);
    if (!error.empty() && (errno == ENOTBLK || errno == EPERM)) {
      GTEST_SKIP() << "SKIPPED: this kernel does not mount EROFS from files: " << error;
    }
    ASSERT_EQ(error, "");
  }

  std::string dir_;
};

// Returns only the first line that differs, since the texts are long.
std::string Difference(const std::string& a, const std::string& b) {
  const std::vector<std::string_view> as = Split(a, '\n');
  const std::vector<std::string_view> bs = Split(b, '\n');
  for (size_t i = 0; i < std::min(as.size(), bs.size()); ++i) {
    if (as[i] != bs[i])
      return StrCat("kernel: ", as[i].substr(0, 900), "\ntree:   ", bs[i].substr(0, 900));
  }
  return as.size() == bs.size() ? "" : StrCat(as.size(), " lines and ", bs.size());
}

TEST_F(ErofsKernelTest, ShowsTheTree) {
  const TreeMaker maker = SampleTree();
  const std::vector<DeviceSlot> slots = SampleDevices(maker);
  std::vector<std::string> data, paths;
  for (size_t i = 0; i < slots.size(); ++i) {
    data.push_back(FakeData(i + 1, slots[i].size_bytes));
    paths.push_back(Write(StrCat("data", i), data[i]));
  }
  MountOrSkip(Write("index", ImageBytes(maker.tree, {.devices = slots})), paths);
  if (IsSkipped()) return;
  EXPECT_EQ(Difference(DirectoryText(Path("mnt")), TreeText(maker.tree, &data)), "");
}

TEST_F(ErofsKernelTest, ShowsOverlayForm) {
  TreeMaker maker;
  maker.File("implied/file", 700);
  maker.Dir("opaque");
  maker.Opaque("opaque");
  maker.Whiteout("gone");
  const std::string data = FakeData(1, 4096);
  MountOrSkip(Write("index", LayerImage(maker.tree, data.size())), {Write("data", data)});
  if (IsSkipped()) return;
  const std::string text = DirectoryText(Path("mnt"));
  EXPECT_NE(text.find("trusted.overlay.opaque=y"), std::string::npos) << text;
  EXPECT_NE(text.find("trusted.imagefs.implied=y"), std::string::npos) << text;
  EXPECT_NE(text.find("/gone 2000 0:0 n1 0.0 s0 0:0"), std::string::npos) << text;
}

TEST_F(ErofsKernelTest, TakesHundredsOfDevices) {
  TreeMaker maker;
  std::vector<DeviceSlot> slots;
  std::vector<std::string> data, paths;
  for (uint16_t i = 0; i < 300; ++i) {
    slots.push_back({StrCat("layer-", i), 1024});
    data.push_back(FakeData(i, 1024));
    paths.push_back(Write(StrCat("data", i), data[i]));
    maker.File(StrCat("f", i), 1000,
               {{0, 0, 512, static_cast<uint16_t>(i + 1)},
                {512, 512, 488, static_cast<uint16_t>(300 - i)}});
  }
  MountOrSkip(Write("index", ImageBytes(maker.tree, {.devices = slots})), paths);
  if (IsSkipped()) return;
  EXPECT_EQ(Difference(DirectoryText(Path("mnt")), TreeText(maker.tree, &data)), "");
}

}  // namespace
}  // namespace imagefs
