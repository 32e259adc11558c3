// Where the controls stand in these tests, and what their maps answer.

export const settings = {
  image_index: 0,
  window: 16,
  stride: 8,
  baseline: "grey",
  target: null,
  region: null,
  regions: null,
  exact: false,
  ssim_target: 0.95,
};
